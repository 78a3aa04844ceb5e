"""Rendering and editing of MuJoCo models, for every suite."""
