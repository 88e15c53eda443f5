//! What must be done to a host's directory to make it what its overlay shows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    super::{
        backend::{Answer, PERMISSIONS},
        path::{Inside, PATH_MAX},
        publish::{Conflict, Object, Plan, Staged, Step},
        status::Status,
    },
    file::MemoryFile,
    node::{Directory, Inode, Node, NodeTimes},
    tree::{ROOT, Taken, Tree, last_name},
};

/// What becomes of an object of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays under its name, in a directory that may move itself.
    Kept,
    /// The guest has it somewhere else.
    Moved,
    /// The guest removed it, or has its own bytes in its place.
    Gone,
}

struct Planner<'a> {
    tree: &'a Tree,
    /// What a name leads to. A file may have names on the host only, which the guest never used.
    named: HashSet<Inode>,
    plan: Plan,
    /// The host's objects that are on their way from one place to another.
    moved: HashSet<Inode>,
    /// Where a file already is in the final tree.
    placed: HashMap<Inode, Vec<u8>>,
    /// The names of the host that were taken for each node.
    known: HashMap<Inode, Vec<&'a [u8]>>,
    /// Links to names in directories that may come to their places later.
    late: Vec<Step>,
}

impl Tree {
    /// The steps, and what has to be staged before them.
    pub(super) fn plan(&mut self) -> Answer<Plan> {
        self.forget_untouched();
        let directories = self.nodes.values().filter_map(|node| match node {
            Node::Directory(directory) => Some(directory),
            _ => None,
        });
        let named = directories.flat_map(Directory::names).map(|(_, inode)| inode).collect();
        let mut known: HashMap<Inode, Vec<&[u8]>> = HashMap::new();
        for (path, taken) in &self.taken {
            known.entry(taken.inode).or_default().push(path);
        }
        let mut planner = Planner {
            tree: self,
            named,
            known,
            late: Vec::new(),
            plan: Plan::default(),
            moved: HashSet::new(),
            placed: HashMap::new(),
        };
        planner.clear()?;
        let directories = planner.build()?;
        planner.plan.steps.append(&mut planner.late);
        planner.attributes(&directories)?;
        Ok(planner.plan)
    }

    fn fate(&self, path: &[u8], taken: &Taken, named: &HashSet<Inode>) -> Fate {
        let Some(node) = self.nodes.get(&taken.inode).filter(|_| named.contains(&taken.inode)) else {
            return Fate::Gone;
        };
        let stays = self.directory(taken.parent).ok().and_then(|parent| parent.get(last_name(path)));
        if stays == Some(taken.inode) {
            Fate::Kept
        } else if is_replaced(node) {
            Fate::Gone
        } else {
            Fate::Moved
        }
    }
}

/// Whether the guest's bytes take the place of what the host has.
fn is_replaced(node: &Node) -> bool {
    match node {
        Node::File(file) => file.blocks().modified || file.beneath().is_none(),
        Node::Symlink(_) => true,
        Node::Lower(_) | Node::Directory(_) => false,
    }
}

impl Planner<'_> {
    /// Takes away what isn't where it was: the deepest first, so that directories are empty when they go.
    fn clear(&mut self) -> Answer<()> {
        let tree = self.tree;
        let kept: HashSet<Inode> = tree
            .taken
            .iter()
            .filter(|(path, taken)| tree.fate(path, taken, &self.named) == Fate::Kept)
            .map(|(_, taken)| taken.inode)
            .collect();
        for (path, taken) in tree.taken.iter().rev() {
            let fate = tree.fate(path, taken, &self.named);
            let changes = tree.nodes.get(&taken.inode).is_some_and(|node| match node {
                Node::Directory(directory) => !directory.is_as_on_host(),
                node => is_replaced(node),
            });
            if fate != Fate::Kept || changes {
                self.expect(path, &taken.status)?;
            }
            match fate {
                Fate::Kept => {}
                Fate::Moved if !kept.contains(&taken.inode) && self.moved.insert(taken.inode) => {
                    self.plan.steps.push(Step::MoveOut { from: path.clone(), id: taken.inode });
                }
                Fate::Moved | Fate::Gone if self.is_overwritten(path, taken) => {}
                Fate::Moved | Fate::Gone => {
                    let directory = taken.status.is_directory();
                    if directory {
                        self.check_emptied(path)?;
                    }
                    self.plan.steps.push(Step::Remove { path: path.clone(), directory });
                }
            }
        }
        Ok(())
    }

    /// Whether another file takes the place of one, which is a single step and no removal.
    fn is_overwritten(&self, path: &[u8], taken: &Taken) -> bool {
        let parent = self.tree.directory(taken.parent).ok();
        let instead = parent.and_then(|parent| parent.get(last_name(path)));
        !taken.status.is_directory() && instead.is_some_and(|instead| !self.tree.is_directory(instead))
    }

    /// What the guest changes must be as it was when the guest saw it.
    fn expect(&mut self, path: &[u8], before: &Status) -> Answer<()> {
        let now = match self.tree.lower()?.status(Inside::new(path)) {
            Ok(now) => now,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                self.plan.conflicts.push(Conflict::Gone(path.to_vec()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let same = now.kind() == before.kind()
            && now.inode == before.inode
            && (now.is_directory() || now.size == before.size && now.modified == before.modified);
        if !same {
            self.plan.conflicts.push(Conflict::Changed(path.to_vec()));
        }
        Ok(())
    }

    /// A directory that goes must have nothing in it that the guest didn't know.
    fn check_emptied(&mut self, path: &[u8]) -> Answer<()> {
        let known = |name: &[u8]| {
            let mut below = path.to_vec();
            below.push(b'/');
            below.extend_from_slice(name);
            self.tree.taken.contains_key(&below)
        };
        match self.tree.lower()?.has_others(path, known) {
            Ok(false) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Ok(true) => self.plan.conflicts.push(Conflict::Changed(path.to_vec())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts everything where the guest has it, a directory before what is in it. Answers the directories in
    /// that order.
    fn build(&mut self) -> Answer<Vec<(Inode, Vec<u8>)>> {
        let tree = self.tree;
        let mut found = Vec::new();
        let mut pending = vec![(ROOT, Vec::new())];
        while let Some((inode, at)) = pending.pop() {
            let directory = tree.directory(inode)?;
            for (name, child) in directory.names() {
                let path = below(&at, name);
                if PATH_MAX <= path.len() {
                    // The guest got there step by step, and the monitor would need the whole path.
                    return Err(Errno::ENAMETOOLONG);
                }
                if !directory.is_of_host(name) && !self.is_free(directory, name)? {
                    self.plan.conflicts.push(Conflict::Appeared(path.clone()));
                }
                match tree.node(child)? {
                    Node::Directory(below) => {
                        if self.moved.contains(&child) {
                            let object = Object::Moved(child);
                            self.plan.steps.push(Step::Place { object, path: path.clone() });
                        } else if below.origin.is_none() {
                            self.plan.steps.push(Step::MakeDirectory { path: path.clone(), mode: 0o700 });
                        }
                        pending.push((child, path));
                    }
                    node => self.put(child, node, self.stays(directory, name, child), path),
                }
            }
            found.push((inode, at));
        }
        Ok(found)
    }

    fn put(&mut self, inode: Inode, node: &Node, stays: bool, path: Vec<u8>) {
        let replaced = is_replaced(node);
        if stays && !replaced {
            self.placed.entry(inode).or_insert(path);
            return;
        }
        if let Some(first) = self.placed.get(&inode) {
            let from = first.clone();
            self.plan.steps.push(Step::Link { from, to: path });
            return;
        }
        let object = if replaced { Object::Staged(inode) } else { Object::Moved(inode) };
        match node {
            Node::File(file) if replaced => self.stage(inode, file, &path),
            Node::Symlink(link) => {
                let staged = Staged::Link { target: link.target.clone(), times: link.times.into() };
                self.plan.staged.push((inode, staged, path.clone()));
            }
            // Where the file stays under another name, this one is a link to it.
            _ if !self.moved.contains(&inode) => {
                if let Some(from) = self.kept_place(inode) {
                    self.late.push(Step::Link { from, to: path });
                }
                return;
            }
            _ => {}
        }
        self.placed.insert(inode, path.clone());
        self.plan.steps.push(Step::Place { object, path });
    }

    fn stage(&mut self, inode: Inode, file: &Arc<MemoryFile>, path: &[u8]) {
        let known = self.known.get(&inode).map_or(0, Vec::len);
        let known = u64::try_from(known).unwrap_or(u64::MAX);
        if let Some(base) = file.blocks().base.as_ref().filter(|base| known < base.status.links) {
            self.plan.parted.push(base.path.clone());
        }
        self.plan.staged.push((inode, Staged::File(Arc::clone(file)), path.to_vec()));
    }

    /// Where a file that stays under one of its names will be.
    fn kept_place(&self, inode: Inode) -> Option<Vec<u8>> {
        let (path, taken) = self
            .known
            .get(&inode)?
            .iter()
            .filter_map(|path| Some((*path, self.tree.taken.get(*path)?)))
            .find(|(path, taken)| self.tree.fate(path, taken, &self.named) == Fate::Kept)?;
        let mut place = self.tree.names_to(taken.parent).ok()?;
        place.push(last_name(path).to_vec());
        Some(place.join(&b'/'))
    }

    /// Whether a name means the very object that the host has under it in that directory.
    fn stays(&self, directory: &Directory, name: &[u8], inode: Inode) -> bool {
        let Some(origin) = &directory.origin else { return false };
        self.tree.taken.get(&below(&origin.path, name)).is_some_and(|taken| taken.inode == inode)
    }

    /// Whether the host hasn't got a name that is new to the guest.
    fn is_free(&self, directory: &Directory, name: &[u8]) -> Answer<bool> {
        let Some(origin) = &directory.origin else { return Ok(true) };
        match self.tree.lower()?.status(Inside::new(&below(&origin.path, name))) {
            Ok(_) => Ok(false),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Modes and times of directories, at last and the deepest first: making names in them changes their
    /// times, and a mode may forbid it.
    fn attributes(&mut self, directories: &[(Inode, Vec<u8>)]) -> Answer<()> {
        for (inode, path) in directories.iter().rev() {
            let directory = self.tree.directory(*inode)?;
            let (mode, times) = match &directory.origin {
                Some(origin) => (origin.new_mode, origin.touched),
                None => (true, true),
            };
            if mode || times {
                self.plan.steps.push(Step::Attributes {
                    path: path.clone(),
                    mode: mode.then_some(directory.mode & PERMISSIONS),
                    times: times.then(|| directory.times.into()),
                });
            }
        }
        Ok(())
    }
}

impl From<NodeTimes> for [super::super::status::Time; 2] {
    fn from(times: NodeTimes) -> Self {
        [times.accessed, times.modified]
    }
}

fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
