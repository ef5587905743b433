//! Circles on which the members stand: who is beside whom, without a word.
//!
//! On each of [`RINGS`] circles the members stand in the order of some bytes of their ids. Whoever has the
//! same roster has the same circles, so that two members know of each other that they stand side by side.
//! Making them is O(n log n) in the members, looking at one place O(log n).

use std::collections::BTreeSet;

use crate::identity::DeviceId;

/// How many circles there are, by eight bytes of an id each.
pub const RINGS: usize = 4;

/// The members on every circle.
#[derive(Debug, Default)]
pub struct Rings {
    /// Every member.
    members: Box<[DeviceId]>,
    /// Each circle from its beginning, as numbers of `members`.
    rings: [Box<[u32]>; RINGS],
}

impl Rings {
    /// The circles of these members.
    pub fn of(members: impl Iterator<Item = DeviceId>) -> Self {
        let members: Box<[DeviceId]> = members.collect();
        let all = 0..u32::try_from(members.len()).expect("a roster has 10,000 members at most");
        let rings = std::array::from_fn(|ring| {
            let mut order: Box<[u32]> = all.clone().collect();
            order.sort_unstable_by_key(|at| {
                let member = &members[*at as usize];
                (place(ring, member), *member)
            });
            order
        });
        Self { members, rings }
    }

    /// The members next to this one, on both sides of it on each circle. It need be no member itself.
    pub fn beside(&self, this: &DeviceId) -> BTreeSet<DeviceId> {
        self.around(this).take(2 * RINGS).filter(|other| other != this).collect()
    }

    /// The members on both sides of this one on each circle, the nearest first, round the circles once.
    /// A member is met on every circle, and where there are few, so is this one itself.
    pub fn around(&self, this: &DeviceId) -> impl Iterator<Item = DeviceId> {
        let count = self.members.len();
        let starts: [(usize, usize); RINGS] = std::array::from_fn(|ring| {
            let member = |at: &u32| self.members[*at as usize];
            let own = (place(ring, this), *this);
            let order = &self.rings[ring];
            let start = order.partition_point(|at| (place(ring, &member(at)), member(at)) < own);
            (start, start + usize::from(order.get(start).is_some_and(|at| member(at) == *this)))
        });
        (0..count).flat_map(move |step| {
            self.rings.iter().zip(starts).flat_map(move |(order, (before, after))| {
                // Round the circle: the first and the last are side by side.
                let backwards = order[(before + count - 1 - step) % count];
                let onwards = order[(after + step) % count];
                [onwards, backwards].map(|at| self.members[at as usize])
            })
        })
    }
}

/// Where a device stands on a circle. Ids are keys, in which every byte is as good as drawn by lot.
fn place(ring: usize, device: &DeviceId) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|at| device.0[8 * ring + at]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::hash;

    pub fn devices(count: u8) -> Vec<DeviceId> {
        (0..count).map(|number| DeviceId(hash(&[number]))).collect()
    }

    #[test]
    fn who_is_beside_another_has_it_beside_itself_and_all_are_a_few_steps_apart() {
        let all = devices(200);
        let rings = Rings::of(all.iter().copied());
        for this in &all {
            let beside = rings.beside(this);
            assert!((2..=8).contains(&beside.len()));
            assert!(beside.iter().all(|other| rings.beside(other).contains(this)));
        }
        let mut reached = BTreeSet::from([all[0]]);
        // A single circle would take a hundred steps.
        for _ in 0..5 {
            reached.extend(reached.iter().flat_map(|at| rings.beside(at)).collect::<Vec<_>>());
        }
        assert_eq!(reached.len(), all.len());
    }

    #[test]
    fn two_members_are_side_by_side_and_one_is_alone() {
        let all = devices(2);
        let rings = Rings::of(all.iter().copied());
        assert_eq!(rings.beside(&all[0]), BTreeSet::from([all[1]]));
        assert!(Rings::of(all.iter().copied().take(1)).beside(&all[0]).is_empty());
        assert!(Rings::default().beside(&all[0]).is_empty());
    }

    #[test]
    fn members_at_one_place_stand_there_by_their_ids() {
        let at = |last: u8| {
            let mut id = [7; 32];
            id[31] = last;
            DeviceId(id)
        };
        // Three circles on which all have one place, and one that tells them apart.
        let all: Vec<_> = (0..6).map(at).collect();
        let rings = Rings::of(all.iter().copied());
        for (before, this) in all.iter().zip(&all[1..]) {
            assert!(rings.beside(this).contains(before) && rings.beside(before).contains(this));
        }
        assert_eq!(rings.beside(&all[2]), BTreeSet::from([all[1], all[3]]));
    }

    #[test]
    fn who_is_no_member_is_told_who_it_would_stand_beside() {
        let all = devices(40);
        let without = Rings::of(all.iter().copied().skip(1));
        let with = Rings::of(all.iter().copied());
        assert_eq!(without.beside(&all[0]), with.beside(&all[0]));
    }

    #[test]
    fn around_a_device_everybody_comes_on_both_sides_of_each_circle_step_by_step() {
        let all = devices(30);
        let rings = Rings::of(all.iter().copied());
        let stranger = DeviceId(hash(b"no member"));
        for this in all.iter().chain([&stranger]) {
            let around: Vec<_> = rings.around(this).collect();
            assert_eq!(around.len(), 2 * RINGS * all.len());
            for ring in 0..RINGS {
                let mut order: Vec<_> = all.iter().filter(|at| *at != this).collect();
                // As the circle is seen from where this one stands.
                let own = place(ring, this);
                order.sort_by_key(|at| place(ring, at).wrapping_sub(own));
                for (step, onwards) in order.iter().enumerate() {
                    let backwards = order[order.len() - 1 - step];
                    let met = &around[2 * (step * RINGS + ring)..][..2];
                    assert_eq!(met, [**onwards, *backwards]);
                }
            }
        }
    }
}
