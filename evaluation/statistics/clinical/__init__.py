"""Clinical use of a configuration: operating points, calibration, net benefit."""
