//! The same for many devices: several at a time, and one entering for all of a namespace.
//!
//! Making, opening and closing devices waits in the kernel for locks and grace periods more than it
//! works on a processor; and entering a namespace costs more than what is then done in it.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::netns::Netns;

/// Threads that work at the same time. More would only stand in line for the kernel's one lock of
/// all devices.
const AT_ONCE: usize = 4;

/// The most items of one namespace that are done in a row: the others of a full one are left to
/// other threads.
const IN_A_ROW: usize = 16;

/// Does `work` for each item and returns what came of each, in the items' order. Each runs inside
/// the namespace at the path that `place` gives, as far as it can be entered; where it cannot, and
/// without one, it runs outside: `work` enters for itself, and finds what is wrong.
///
/// A panic in `work` is passed on.
pub fn for_each<T: Sync, R: Send>(
    items: &[T],
    place: impl Fn(&T) -> Option<PathBuf>,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    in_rows(items, place, |path, row| {
        let each = || row.iter().map(|item| work(item)).collect::<Vec<_>>();
        let netns = path.and_then(|path| Netns::open_path(path).ok());
        match netns.map(|netns| netns.run(each)) {
            Some(Ok(results)) => results,
            Some(Err(_)) | None => each(),
        }
    })
}

/// Does `work` for rows of items that have one place, several rows at a time, without entering
/// anything, and returns what came of each item, in the items' order. `work` is given the place and
/// the row, and has one result for each item of it.
///
/// A panic in `work` is passed on.
pub fn in_rows<T: Sync, R: Send>(
    items: &[T],
    place: impl Fn(&T) -> Option<PathBuf>,
    work: impl Fn(Option<&Path>, &[&T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let rows = rows(items, place);
    let next = AtomicUsize::new(0);
    let turn = || {
        let mut done = Vec::new();
        while let Some((path, row)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let items: Vec<&T> = row.iter().map(|(_, item)| *item).collect();
            let results = work(path.as_deref(), &items);
            done.extend(row.iter().map(|(at, _)| *at).zip(results));
        }
        done
    };
    let mut done: Vec<(usize, R)> = match rows.len() {
        0 | 1 => turn(),
        some => thread::scope(|scope| {
            // This thread is one of them: without others, which the system may refuse, it takes longer.
            let spawn = |_| thread::Builder::new().spawn_scoped(scope, turn).ok();
            let others: Vec<_> = (1..some.min(AT_ONCE)).filter_map(spawn).collect();
            let mut done = turn();
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            done
        }),
    };
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A namespace's path, and items to be done there with their places in the whole.
type Row<'i, T> = (Option<PathBuf>, Vec<(usize, &'i T)>);

fn rows<T>(items: &[T], place: impl Fn(&T) -> Option<PathBuf>) -> Vec<Row<'_, T>> {
    let mut by_place: BTreeMap<Option<PathBuf>, Vec<(usize, &T)>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        by_place.entry(place(item)).or_default().push((at, item));
    }
    let mut rows = Vec::new();
    for (path, items) in by_place {
        rows.extend(items.chunks(IN_A_ROW).map(|row| (path.clone(), row.to_vec())));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_items_order_however_they_are_spread() {
        let items: Vec<usize> = (0..100).collect();
        let place = |item: &usize| match item % 3 {
            0 => None,
            // Neither can be entered: the work is done all the same.
            1 => Some(PathBuf::from("/no/such/namespace")),
            _ => Some(PathBuf::from("/etc/passwd")),
        };
        let results = for_each(&items, place, |item| item * 2);
        assert_eq!(results, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(for_each(&[], |_: &usize| None, |item| *item), [0; 0]);
    }

    #[test]
    fn no_row_is_longer_than_it_may_be_and_none_mixes_namespaces() {
        let items: Vec<usize> = (0..100).collect();
        let place = |item: &usize| Some(PathBuf::from(format!("/{}", item % 2)));
        let rows = rows(&items, place);
        assert_eq!(rows.iter().map(|(_, row)| row.len()).sum::<usize>(), 100);
        for (path, row) in rows {
            assert!(row.len() <= IN_A_ROW);
            assert!(row.iter().all(|(at, item)| at == *item && place(item) == path));
        }
    }
}
