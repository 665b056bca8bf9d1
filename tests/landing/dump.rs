//! What base and log have, for people who look at one sequence.

use std::ops::ControlFlow;
use std::path::Path;

use regentfs::store::codec::{get_dentry, get_inode};
use regentfs::store::{Table, keys};

use crate::time::live::Live;

/// Printed only for a sequence that was asked for by `REGENTFS_LANDING_SCRIPT`.
pub fn dump(live: &Live, base: &Path, what: &str) {
    if std::env::var_os("REGENTFS_LANDING_SCRIPT").is_none() {
        return;
    }
    println!("{what}");
    std::process::Command::new("find").arg(base).arg("-ls").status().expect("find");
    let each = &mut |key: &[u8], value: &[u8]| {
        if let Some((dir, name, epoch)) = keys::parse_dentry(key) {
            println!("d {dir} {} @{} {:?}", String::from_utf8_lossy(name), epoch.0, get_dentry(value).ok());
        } else if let Some((ino, epoch)) = keys::parse_inode(key) {
            let record = get_inode(ino, value).ok().map(|r| {
                let origin = r.origin.map(|o| (o.path.to_string(), o.ino));
                (r.attr.nlink, r.attr.perm, r.attr.size, r.content, r.opaque, r.xattrs.map(|x| x.len()), origin)
            });
            println!("i {ino} @{} {record:?}", epoch.0);
        }
        ControlFlow::Continue(())
    };
    live.store().kv.scan(Table::Tree, b"d", b"j", each).expect("scan");
}
