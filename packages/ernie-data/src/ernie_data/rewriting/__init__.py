"""Rewriting captions into prompt styles: keywords, natural request, instruction, detailed composition. What is quoted stays verbatim."""
