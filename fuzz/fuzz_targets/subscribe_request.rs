//! Any bytes as a SubscribeRequest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watchmark::grpc::any_bytes::subscribe_request(bytes));
