"""Curricula: which starts to practise on."""
