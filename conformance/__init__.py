"""Would this image pass on the platform? A container engine runs it; checks judge the outputs."""
