//! Software segmentation and checksum completion, for backends that cannot take a super-frame or a partial
//! checksum (§4.6).
