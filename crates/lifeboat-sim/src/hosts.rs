//! The hosts of a world, by number and by name. What they do is in `world`.

/// Number of the host `a`, which has the VM when a world begins. Stories in which roles change call hosts [`A`], [`B`] and [`C`],
/// as messages do; where they stay, [`PRIMARY`], [`REPLICA`] and [`THIRD`] say more.
pub const A: usize = 0;
/// Number of the host `b`, to which `a` replicates in the usual beginnings.
pub const B: usize = 1;
/// Number of the host `c`, to which `b` extends the replication of `a` in stories of three hosts.
pub const C: usize = 2;
/// Number of the host `d`, to which `b` extends the replication beside `c` in stories of four hosts.
pub const D: usize = 3;

/// The host with the VM, in stories in which no other one takes its role.
pub const PRIMARY: usize = A;
/// The host to which [`PRIMARY`] replicates, in stories in which roles stay.
pub const REPLICA: usize = B;
/// The host to which [`REPLICA`] extends the replication, in stories in which roles stay.
pub const THIRD: usize = C;

/// Names of the hosts of a world of two.
pub const TWO_HOSTS: &[&str] = &["a", "b"];
/// Names of the hosts of a world of three.
pub const THREE_HOSTS: &[&str] = &["a", "b", "c"];
/// Names of the hosts of a world of four.
pub const FOUR_HOSTS: &[&str] = &["a", "b", "c", "d"];
