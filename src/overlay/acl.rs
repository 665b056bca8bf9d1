//! POSIX access control lists: their form as an extended attribute, and how list and mode bits follow each other.
//!
//! Knows neither inodes nor the log. The rules are those of acl(5), as fs/posix_acl.c in Linux has them.

use crate::types::Errno;

/// The attribute with the list that decides about access.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory with the list that is born with what is made in it.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
/// The id of an entry that names nobody (ACL_UNDEFINED_ID).
const NOBODY: u32 = u32::MAX;

/// Whom an entry is for, in the order in which a list holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    Group = 0x04,
    NamedGroup = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// Read, write, execute: 0 to 7.
    perm: u16,
    id: u32,
}

/// A list that is in order and complete. See acl(5), "VALID ACLs".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

/// What something new gets from its directory's default list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Born {
    pub perm: u16,
    /// Its access list; `None` when the mode bits say all of it.
    pub access: Option<Acl>,
}

impl Tag {
    fn from_bits(bits: u16) -> Option<Tag> {
        [Tag::Owner, Tag::User, Tag::Group, Tag::NamedGroup, Tag::Mask, Tag::Other]
            .into_iter()
            .find(|tag| *tag as u16 == bits)
    }

    fn is_named(self) -> bool {
        matches!(self, Tag::User | Tag::NamedGroup)
    }
}

impl Acl {
    /// Reads the attribute's form: `u32` version, then per entry `u16` tag, `u16` permissions, `u32` id, little-endian.
    ///
    /// # Errors
    /// `EINVAL` for anything but a valid list.
    pub fn parse(bytes: &[u8]) -> Result<Acl, Errno> {
        let (version, rest) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
        let (entries, rest) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        let entries = entries.iter().map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| {
            let tag = Tag::from_bits(u16::from_le_bytes([t0, t1])).ok_or(Errno::EINVAL)?;
            let perm = u16::from_le_bytes([p0, p1]);
            // The kernel ignores what stands in the place of an id that means nothing.
            let id = if tag.is_named() { u32::from_le_bytes([i0, i1, i2, i3]) } else { NOBODY };
            let valid = perm <= 7 && !(tag.is_named() && id == NOBODY);
            if valid { Ok(Entry { tag, perm, id }) } else { Err(Errno::EINVAL) }
        });
        let acl = Acl(entries.collect::<Result<_, _>>()?);
        if acl.is_valid() { Ok(acl) } else { Err(Errno::EINVAL) }
    }

    pub fn encode(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(4 + 8 * self.0.len());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.0 {
            bytes.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes.into()
    }

    /// In the order of the tags, each of owner, group and other once, and a mask where somebody is named.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let named = self.0.iter().any(|e| e.tag.is_named());
        [Tag::Owner, Tag::Group, Tag::Other].into_iter().all(|tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
            && self.0.is_sorted_by_key(|e| e.tag)
    }

    /// Whether mode bits say all of it (`posix_acl_equiv_mode`).
    pub fn is_mode(&self) -> bool {
        self.0.iter().all(|e| matches!(e.tag, Tag::Owner | Tag::Group | Tag::Other))
    }

    /// The nine permission bits that stat(2) shows: the mask stands in the group's place.
    pub fn mode(&self) -> u16 {
        let group = self.class(Tag::Mask).or(self.class(Tag::Group));
        [self.class(Tag::Owner), group, self.class(Tag::Other)]
            .into_iter()
            .fold(0, |mode, perm| mode << 3 | perm.unwrap_or(0))
    }

    /// `perm` with its permission bits replaced by those of the list.
    pub fn applied_to(&self, perm: u16) -> u16 {
        perm & !0o777 | self.mode()
    }

    fn class(&self, tag: Tag) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm)
    }

    /// What chmod(2) leaves of it (`posix_acl_chmod`): named entries stay, the mask bounds them.
    pub fn chmod(&mut self, perm: u16) {
        let has_mask = self.class(Tag::Mask).is_some();
        for entry in &mut self.0 {
            match entry.tag {
                Tag::Owner => entry.perm = perm >> 6 & 7,
                Tag::Mask => entry.perm = perm >> 3 & 7,
                Tag::Group if !has_mask => entry.perm = perm >> 3 & 7,
                Tag::Other => entry.perm = perm & 7,
                Tag::User | Tag::NamedGroup | Tag::Group => {}
            }
        }
    }

    /// What something made with mode `perm` is born with where this is the default list (`posix_acl_create`): the bits that both
    /// allow. The umask has no say.
    pub fn born(&self, perm: u16) -> Born {
        let perm = perm & (self.mode() | !0o777);
        let mut access = self.clone();
        access.chmod(perm);
        Born { perm, access: (!access.is_mode()).then_some(access) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(Tag, u16, u32)]) -> Acl {
        let acl = Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect());
        assert!(acl.is_valid(), "{acl:?}");
        acl
    }

    fn plain(mode: u16) -> Acl {
        acl(&[(Tag::Owner, mode >> 6 & 7, NOBODY), (Tag::Group, mode >> 3 & 7, NOBODY), (Tag::Other, mode & 7, NOBODY)])
    }

    /// `u::rwx,u:1:rwx,g::r-x,m::rwx,o::r-x`
    fn named() -> Acl {
        acl(&[
            (Tag::Owner, 7, NOBODY),
            (Tag::User, 7, 1),
            (Tag::Group, 5, NOBODY),
            (Tag::Mask, 7, NOBODY),
            (Tag::Other, 5, NOBODY),
        ])
    }

    /// What `setfacl -m u:1:rw,g:2:r` leaves on a file of mode 0644 on ext4, read with `getfattr -e hex`.
    const GOLDEN: &str = "02000000 01000600ffffffff 0200060001000000 04000400ffffffff 0800040002000000 \
                          10000600ffffffff 20000400ffffffff";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("ASCII"), 16).expect("hexadecimal");
        digits.chunks(2).map(pair).collect()
    }

    #[test]
    fn the_kernels_bytes_there_and_back() {
        let parsed = Acl::parse(&bytes(GOLDEN)).expect("a list that the kernel wrote");
        let expected = acl(&[
            (Tag::Owner, 6, NOBODY),
            (Tag::User, 6, 1),
            (Tag::Group, 4, NOBODY),
            (Tag::NamedGroup, 4, 2),
            (Tag::Mask, 6, NOBODY),
            (Tag::Other, 4, NOBODY),
        ]);
        assert_eq!(parsed, expected);
        assert_eq!(*parsed.encode(), *bytes(GOLDEN));
        assert_eq!(parsed.mode(), 0o664);
        assert!(!parsed.is_mode());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let cases = [
            ("nothing", ""),
            ("half a version", "0200"),
            ("no entries", "02000000"),
            ("another version", "03000000 01000600ffffffff 04000400ffffffff 20000400ffffffff"),
            ("half an entry", "02000000 01000600ffffffff 04000400ffffffff 20000400"),
            ("an unknown tag", "02000000 01000600ffffffff 04000400ffffffff 40000400ffffffff"),
            ("more than rwx", "02000000 01000e00ffffffff 04000400ffffffff 20000400ffffffff"),
            ("no other", "02000000 01000600ffffffff 04000400ffffffff"),
            ("two owners", "02000000 01000600ffffffff 01000600ffffffff 04000400ffffffff 20000400ffffffff"),
            ("out of order", "02000000 04000400ffffffff 01000600ffffffff 20000400ffffffff"),
            ("a name without a mask", "02000000 01000600ffffffff 0200060001000000 04000400ffffffff 20000400ffffffff"),
            (
                "a name that is none",
                "02000000 01000600ffffffff 02000600ffffffff 04000400ffffffff 10000600ffffffff 20000400ffffffff",
            ),
        ];
        for (what, hex) in cases {
            assert_eq!(Acl::parse(&bytes(hex)), Err(Errno::EINVAL), "{what}");
        }
    }

    #[test]
    fn three_entries_are_a_mode() {
        for mode in [0, 0o644, 0o751, 0o777] {
            let acl = plain(mode);
            assert!(acl.is_mode());
            assert_eq!(acl.mode(), mode);
            assert_eq!(acl.applied_to(0o7000), 0o7000 | mode);
            assert_eq!(Acl::parse(&acl.encode()), Ok(acl));
        }
    }

    #[test]
    fn the_mask_is_shown_as_the_groups_bits() {
        assert_eq!(named().mode(), 0o775);
        assert_eq!(named().applied_to(0o2600), 0o2775);
    }

    #[test]
    fn chmod_changes_the_mask_and_leaves_the_group() {
        let mut list = named();
        list.chmod(0o7640);
        let expected = acl(&[
            (Tag::Owner, 6, NOBODY),
            (Tag::User, 7, 1),
            (Tag::Group, 5, NOBODY),
            (Tag::Mask, 4, NOBODY),
            (Tag::Other, 0, NOBODY),
        ]);
        assert_eq!(list, expected);
        let mut list = plain(0o777);
        list.chmod(0o640);
        assert_eq!(list, plain(0o640));
    }

    #[test]
    fn what_is_born_gets_the_bits_that_mode_and_default_list_both_allow() {
        let file = named().born(0o666);
        let access = acl(&[
            (Tag::Owner, 6, NOBODY),
            (Tag::User, 7, 1),
            (Tag::Group, 5, NOBODY),
            (Tag::Mask, 6, NOBODY),
            (Tag::Other, 4, NOBODY),
        ]);
        assert_eq!(file, Born { perm: 0o664, access: Some(access) });
        assert_eq!(named().born(0o2777), Born { perm: 0o2775, access: Some(named()) });
        assert_eq!(plain(0o750).born(0o666), Born { perm: 0o640, access: None });
    }
}
