"""LeRobot's networks as policies."""
