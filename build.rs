//! Tells the linker what `hack/build.sh` found this machine's libc able to do. Without that script nothing is told.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GRAPHTOKEN_PACKED_RELOCATIONS");
    // Of all that the dynamic linker reads when the process starts this is the most. Not of the plugin, which is to run on an
    // older libc too.
    if env::var_os("GRAPHTOKEN_PACKED_RELOCATIONS").is_some_and(|value| !value.is_empty()) {
        println!("cargo:rustc-link-arg-bin=graphtoken=-Wl,-z,pack-relative-relocs");
    }
}
