"""A study → probability → candidates → detection map and case likelihood."""
