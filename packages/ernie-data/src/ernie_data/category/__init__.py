"""Which kind of picture it is: taxonomies by hierarchical k-means over embeddings, a head trained from labels, and the stage that uses either."""
