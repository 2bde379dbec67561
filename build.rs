//! Generates gRPC clients, servers and messages from `proto/`.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
};

fn main() -> io::Result<()> {
    // Otherwise a change to any file of the project builds everything again.
    writeln!(io::stdout(), "cargo::rerun-if-changed=proto")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::codec::SmallBuffers")
        .file_descriptor_set_path(out.join("watchmark.bin"))
        .compile_protos(
            &[
                "proto/watchmark/v1/watch.proto",
                "proto/watchmark/v1/admin.proto",
                "proto/watchmark/v1/store.proto",
            ],
            &["proto"],
        )?;
    // etcd's events and pairs are read straight into our own Event and KeyValue.
    let etcd = out.join("etcd");
    fs::create_dir_all(&etcd)?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::codec::SmallBuffers")
        .extern_path(".watchmark.v1", "crate::proto::watchmark::v1")
        .out_dir(etcd)
        .compile_protos(
            &[
                "proto/etcdserverpb/watch.proto",
                "proto/etcdserverpb/kv.proto",
            ],
            &["proto"],
        )
}
