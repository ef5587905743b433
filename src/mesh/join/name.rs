//! A name that no other device has.

use crate::identity::DeviceId;
use crate::membership::{DeviceName, Roster};

/// The longest name, as of any DNS label.
const MAX_NAME: usize = 63;

/// `wanted`, or the first of `wanted-2`, `wanted-3`, … that no other device has.
pub fn unique_name(roster: &Roster, wanted: &DeviceName, id: &DeviceId) -> DeviceName {
    let free = |name: &str| roster.by_name(name).is_none_or(|member| member.id == *id);
    let numbered = |n: usize| {
        let end = format!("-{n}");
        let stem = &wanted.as_str()[..wanted.as_str().len().min(MAX_NAME - end.len())];
        format!("{}{end}", stem.trim_end_matches('-'))
    };
    if free(wanted.as_str()) {
        return wanted.clone();
    }
    // One more than there are members: by then one is free.
    (2..roster.len() + 3)
        .map(numbered)
        .find(|name| free(name))
        .and_then(|name| name.parse().ok())
        .unwrap_or_else(|| wanted.clone())
}
