"""Archive → prepared dataset → runs → bundle."""
