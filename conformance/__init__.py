"""Would this image pass on the platform? An engine runs it; checks decide about the outputs."""
