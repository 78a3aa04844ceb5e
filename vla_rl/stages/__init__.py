"""The stages of a run: each joins plug-ins by name and leaves its results in a run folder."""
