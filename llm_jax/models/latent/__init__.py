"""Families that draw a text from a vector: variational autoencoders and adversarial generators.

Letters: Z the latent vector's size, M vectors drawn for one text.
"""
