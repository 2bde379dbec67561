//! Generates the client from the `.proto` files.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().build_server(false).compile_protos(
        &["../../proto/watchmark/v1/watch.proto", "../../proto/watchmark/v1/admin.proto"],
        &["../../proto"],
    )
}
