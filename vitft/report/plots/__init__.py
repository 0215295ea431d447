"""Pictures of results, as PNG and SVG: readable in a paper's column, safe for the colour-blind."""
