//! What certificates say of themselves. Reads only those that TLS has
//! verified, and our own.

use std::time::SystemTime;

use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The DNS names and URIs among the subject alternative names; none of a
/// certificate that cannot be read.
pub(super) fn names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = certificate.tbs_certificate().get_extension();
    let Ok(Some((_, SubjectAltName(names)))) = names else {
        return Vec::new();
    };
    let text = |name| match name {
        GeneralName::DnsName(name) | GeneralName::UniformResourceIdentifier(name) => {
            Some(name.to_string())
        }
        _ => None,
    };
    names.into_iter().filter_map(text).collect()
}

/// When it expires; `None` if it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some(validity.not_after.to_system_time())
}
