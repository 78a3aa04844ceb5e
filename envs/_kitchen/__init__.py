"""The parts of the suite ``franka_kitchen``."""
