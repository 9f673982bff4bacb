"""How good an exit's confidence is: calibration, failure prediction, learned scores."""
