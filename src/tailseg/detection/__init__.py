"""A detector at work: on a whole data set, and with scores calibrated after training."""
