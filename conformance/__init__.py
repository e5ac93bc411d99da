"""Would this image pass on the platform? An engine runs it; checks judge what it does."""
