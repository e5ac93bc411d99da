"""An image in the container engine, under the platform's conditions."""
