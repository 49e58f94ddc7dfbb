"""Parts of the scene: each draws one kind of thing as Polyscope structures; scene_view keeps them up to date."""
