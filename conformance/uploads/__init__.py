"""Files to upload: archives of images, model and truth, and the sheet for the platform's forms."""
