"""The stages of a run: each loads plug-ins by name and writes its results into a run folder."""
