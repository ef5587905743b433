//! SKELETON (helper `membership` owns and completes this file).
use serde::{Deserialize, Serialize};
/// A DNS label (RFC 1123): 1 to 63 of `a-z 0-9 -`, no hyphen at either end. Also a network's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 letters, digits and hyphens, and no hyphen at its ends")]
pub struct NameError;
impl DeviceName {
    pub fn as_str(&self) -> &str { &self.0 }
    /// A host name made a DNS label: lower case, first label, other characters to hyphens.
    pub fn from_host_name(_host: &str) -> Option<Self> { todo!() }
}
impl std::str::FromStr for DeviceName { type Err = NameError; fn from_str(_s: &str) -> Result<Self, NameError> { todo!() } }
impl TryFrom<String> for DeviceName { type Error = NameError; fn try_from(s: String) -> Result<Self, NameError> { s.parse() } }
impl From<DeviceName> for String { fn from(n: DeviceName) -> String { n.0 } }
impl std::fmt::Display for DeviceName { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
