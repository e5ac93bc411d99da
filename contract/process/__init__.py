"""A command as a process: arguments, signals, terminal, and the platform's server."""
