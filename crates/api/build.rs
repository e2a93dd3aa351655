//! Compiles the protobuf contract: messages and service of `proto/lamina/v1`, and their descriptors, by which
//! the text form of objects is read and written.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 2] = ["lamina/v1/policy.proto", "lamina/v1/host.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("lamina.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
