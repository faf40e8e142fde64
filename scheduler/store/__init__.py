"""Redis: keys, scripts, and one typed method per question. The only room that imports redis."""
