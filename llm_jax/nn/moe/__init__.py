"""Mixture of experts: routers that choose, experts that are chosen. E experts, k of them a token."""
