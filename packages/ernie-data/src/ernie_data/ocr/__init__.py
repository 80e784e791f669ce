"""The text in pictures: Tesseract as the backend for a CPU, vision-language models as the large one, and how well either reads."""
