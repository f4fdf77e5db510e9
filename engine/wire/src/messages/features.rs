//! ApiVersions' answer: what a broker serves, and the features that are in force (KIP-584).

use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_count, put_no_tags, put_string};
use crate::{ApiKey, WireError};
use model::varint::put_unsigned;

const TAG_SUPPORTED: u32 = 0;
const TAG_EPOCH: u32 = 1;
const TAG_FINALIZED: u32 = 2;
/// Before this version clients choke on a supported level of 0 (KAFKA-17011).
const LEVEL_ZERO_SINCE: i16 = 4;
message! {
    /// One API's range.
    ApiVersion {
        api_key: i16 = 0, _,
        min_version: i16 = 0, _,
        max_version: i16 = 0, _,
    }
}

/// A feature whose level clients ask for before they use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as `transaction.version`.
    pub name: String,
    /// The lowest level that could be in force.
    pub min_level: i16,
    /// The level that is in force, also the highest that could be.
    pub level: i16,
}

/// The ranges a broker serves; v1 adds throttling, v3 features, which are tagged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiVersionsResponse {
    /// None, or why the ranges are all there is.
    pub error_code: i16,
    /// The ranges.
    pub api_keys: Vec<ApiVersion>,
    /// How long the client is to wait.
    pub throttle_time_ms: i32,
    /// The features in force.
    pub features: Vec<Feature>,
}

impl Message for ApiVersionsResponse {
    const KEY: ApiKey = ApiKey::ApiVersions;
}

fn put_levels(out: &mut Vec<u8>, feature: &Feature, low: i16, high: i16) {
    put_string(out, Some(&feature.name), true);
    out.extend_from_slice(&low.to_be_bytes());
    out.extend_from_slice(&high.to_be_bytes());
    put_no_tags(out, true);
}

impl Field for ApiVersionsResponse {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        self.error_code.write(out, version);
        self.api_keys.write(out, version);
        if version.number >= 1 {
            self.throttle_time_ms.write(out, version);
        }
        if !version.flexible {
            return;
        }
        let shown = |f: &&Feature| version.number >= LEVEL_ZERO_SINCE || f.min_level > 0;
        let supported: Vec<&Feature> = self.features.iter().filter(shown).collect();
        let mut tags = Vec::new();
        let mut tag = |number: u32, bytes: Vec<u8>| tags.push((number, bytes));
        if !supported.is_empty() {
            let mut bytes = Vec::new();
            put_count(&mut bytes, Some(supported.len()), true);
            for feature in supported {
                put_levels(&mut bytes, feature, feature.min_level, feature.level);
            }
            tag(TAG_SUPPORTED, bytes);
        }
        if !self.features.is_empty() {
            tag(TAG_EPOCH, 0i64.to_be_bytes().to_vec());
            let mut bytes = Vec::new();
            put_count(&mut bytes, Some(self.features.len()), true);
            for feature in &self.features {
                // Here the highest comes first.
                put_levels(&mut bytes, feature, feature.level, feature.level);
            }
            tag(TAG_FINALIZED, bytes);
        }
        put_unsigned(out, tags.len() as u64);
        for (number, bytes) in tags {
            put_unsigned(out, u64::from(number));
            put_unsigned(out, bytes.len() as u64);
            out.extend_from_slice(&bytes);
        }
    }

    /// The features are not read: this side has no use for them.
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        let error_code = i16::read(reader, version)?;
        let api_keys = Vec::read(reader, version)?;
        let throttle_time_ms = if version.number >= 1 { i32::read(reader, version)? } else { 0 };
        reader.skip_tags(version.flexible)?;
        Ok(Self { error_code, api_keys, throttle_time_ms, features: Vec::new() })
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
        Self {
            error_code: i16::sample(random, version),
            api_keys: Vec::sample(random, version),
            throttle_time_ms: if version.number >= 1 { i32::sample(random, version) } else { 0 },
            features: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages as theirs;
    use kafka_protocol::protocol::Decodable;

    #[test]
    fn features_are_read_by_an_independent_codec() {
        let name = "transaction.version".to_owned();
        let features = vec![Feature { name, min_level: 0, level: 2 }];
        let ours = ApiVersionsResponse { features, ..Default::default() };
        for version in 0..=4 {
            let mut bytes = Vec::new();
            ours.encode(&mut bytes, version);
            let mut rest = &bytes[..];
            let read = theirs::ApiVersionsResponse::decode(&mut rest, version).unwrap();
            assert!(rest.is_empty(), "v{version}");
            let supported = read.supported_features.first().map(|f| (f.min_version, f.max_version));
            assert_eq!(supported, (version >= 4).then_some((0, 2)), "v{version}");
            let level = read.finalized_features.first().map(|f| f.max_version_level);
            assert_eq!(level, (version >= 3).then_some(2), "v{version}");
        }
    }
}
