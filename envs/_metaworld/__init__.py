"""The parts of the suite ``metaworld``."""
