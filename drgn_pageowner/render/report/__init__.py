"""A post-mortem as one HTML page, as Markdown, as JSON."""
