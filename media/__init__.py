"""media: kinds of files as plugins of the one byte model, a module each.

A modality says where its data come from, how a file becomes training bytes, how generated
bytes are shown, and how a result is judged; `media/modality.py` is the contract. Model, loss,
optimizer and training loop know nothing of it.
"""
