"""Vision-language models that describe pictures: a server or a local model behind one protocol, and structured captions out of their answers."""
