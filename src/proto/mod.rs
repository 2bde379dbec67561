//! The messages and services generated from `proto/`.
//!
//! - `items`: events and pairs, as `resume` sees them
//! - `pair_options`: what a stream sees of each pair
//! - `proof`: what a proof is called
//! - `codec`: how messages are encoded for tonic
#![expect(missing_docs, reason = "generated code; proto/ documents it")]

/// Our own API and what the store holds.
pub mod watchmark {
    /// Package `watchmark.v1`.
    pub mod v1 {
        tonic::include_proto!("watchmark.v1");
    }
}

/// The part of etcd's API that is spoken through our own stub.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcd/etcdserverpb.rs"));
}

/// The encoded `FileDescriptorSet` of `watchmark.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("watchmark");

pub mod codec;
mod items;
mod pair_options;
mod proof;

pub use self::pair_options::PairOptions;
