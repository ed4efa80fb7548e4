"""Every attack beside the libraries that have it: same model, images, budget and passes.

``match`` holds what a comparison is; one module a family lists its matches; ``run`` measures them.
"""
