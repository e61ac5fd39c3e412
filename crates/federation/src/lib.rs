//! KubeFed: placement, overrides, versions, and the controllers around them
