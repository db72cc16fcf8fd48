"""One small file per form of provider, all with the face of `base.Provider`; nothing here knows teams or money."""
