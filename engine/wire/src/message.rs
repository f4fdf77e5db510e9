//! What a control message is, and the one declaration that its reader and writer come from.

use crate::primitives::{Field, Reader, Version, with_bounded_memory};
use crate::{ApiKey, WireError};

/// A whole request or response body.
pub trait Message: Field {
    /// The API it belongs to.
    const KEY: ApiKey;

    /// Appends the body in this version.
    fn encode(&self, out: &mut Vec<u8>, version: i16) {
        self.write(out, Version { number: version, flexible: Self::KEY.is_flexible(version) });
    }

    /// Reads the body in this version.
    ///
    /// # Errors
    /// Malformed bytes.
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        Self::read(reader, Version { number: version, flexible: Self::KEY.is_flexible(version) })
    }

    /// As `decode`, of someone who is not trusted: it takes four times its bytes in memory at most, and a little.
    ///
    /// # Errors
    /// Malformed bytes, or `Memory`.
    fn decode_untrusted(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        with_bounded_memory(reader, |reader| Self::decode(reader, version))
    }
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident $(of $key:ident)? {
        $($field:ident : $type:ty = $default:expr, $versions:pat,)*
    }) => {
        $(#[$doc])*
        #[allow(missing_docs)]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Field for $name {
            fn write(&self, out: &mut Vec<u8>, version: Version) {
                $(if matches!(version.number, $versions) { self.$field.write(out, version); })*
                put_no_tags(out, version.flexible);
            }

            fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
                let message = Self {
                    $($field: if matches!(version.number, $versions) {
                        <$type>::read(reader, version)?
                    } else {
                        $default
                    },)*
                };
                reader.skip_tags(version.flexible)?;
                Ok(message)
            }

            #[cfg(test)]
            fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
                Self {
                    $($field: if matches!(version.number, $versions) {
                        <$type>::sample(random, version)
                    } else {
                        $default
                    },)*
                }
            }
        }

        $(impl Message for $name { const KEY: ApiKey = ApiKey::$key; })?
    };
}
