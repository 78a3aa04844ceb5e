"""From tokens, text and proprioception to what a head reads."""
