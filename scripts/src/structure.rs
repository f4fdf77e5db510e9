//! What the code's own imports say of its structure: files that import each other in a circle, and functions too long to
//! be read at once. Both are counted per crate and may only shrink.

use crate::steps::{rust_files, top};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// How many files of a crate may import each other in circles: lower it with each that is opened.
const CIRCLES: &[(&str, usize)] = &[];
/// Lines of a function, its signature included.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
/// Crates with an assertion for every second function at least.
const ASSERTED: &[&str] = &["engine/storage", "engine/partition"];
/// By how many lines all longer ones of a crate together may exceed that.
const LONG_FUNCTIONS: &[(&str, usize)] =
    &[("engine/runtime", 0), ("loadgen", 272), ("benches", 18), ("scripts", 8)];

/// Handlers are given the rooms that they ask; only these know the shard itself: the way of data, and who hands out.
const KNOW_THE_SHARD: &[&str] = &["dispatch", "mail", "rooms", "data::produce", "data::fetch"];

/// A module's path from the root of its crate: none for the root itself.
type Module = Vec<String>;

/// One file of a crate, as it was parsed.
struct Source {
    module: Module,
    syntax: syn::File,
}

/// Every complaint about the files in `src` of these crates.
pub(crate) fn complaints<'a>(crates: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    for name in crates {
        let sources = read(&top().join(name).join("src"))?;
        let imports = imports(&sources);
        if name == "engine/broker" {
            complaints.extend(handlers_that_know_the_shard(&imports));
        }
        let circles = circles(&imports);
        let in_circles: usize = circles.iter().map(BTreeSet::len).sum();
        let what = || {
            let shown = circles.iter().map(|circle| {
                let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
                format!("({})", names.join(", "))
            });
            format!(
                "{name}: files that import each other in circles {}",
                shown.collect::<Vec<_>>().join(" ")
            )
        };
        complaints.extend(ratchet(name, in_circles, CIRCLES, "CIRCLES", what));
        let functions: Vec<Functions> =
            sources.values().map(|source| functions_of(&source.syntax)).collect();
        complaints.extend(too_few_assertions(name, &functions));
        let long: Vec<&(String, usize)> = functions.iter().flat_map(|file| &file.long).collect();
        let over: usize = long.iter().map(|(_, lines)| lines - FUNCTION_LINES_MAX).sum();
        let what = || {
            let shown: Vec<String> =
                long.iter().map(|(name, lines)| format!("{name} ({lines})")).collect();
            format!("{name}: lines beyond {FUNCTION_LINES_MAX} in functions: {}", shown.join(", "))
        };
        complaints.extend(ratchet(name, over, LONG_FUNCTIONS, "LONG_FUNCTIONS", what));
    }
    Ok(complaints)
}

fn handlers_that_know_the_shard(
    imports: &BTreeMap<Module, BTreeSet<Module>>,
) -> impl Iterator<Item = String> {
    let is_shard = |module: &Module| module.join("::") == "shard::shard";
    let knowing = imports.iter().filter(move |(_, known)| known.iter().any(is_shard));
    knowing.filter_map(|(module, _)| {
        let name = module.join("::").strip_prefix("api::")?.to_owned();
        let complaint =
            format!("engine/broker: api::{name} knows the shard: give it a room of api::rooms");
        (!KNOW_THE_SHARD.contains(&name.as_str())).then_some(complaint)
    })
}

/// A complaint if there are more than may be, or fewer: what was reached is kept.
fn ratchet(
    name: &str,
    found: usize,
    allowed: &[(&str, usize)],
    list: &str,
    what: impl Fn() -> String,
) -> Option<String> {
    let most = allowed.iter().find(|(of, _)| *of == name).map_or(0, |(_, most)| *most);
    match found.cmp(&most) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(format!("{} ({found}, at most {most})", what())),
        std::cmp::Ordering::Less => Some(format!(
            "{name}: only {found} are left: write it down in {list} of scripts/src/structure.rs"
        )),
    }
}

/// The files below a crate's `src`, by their path in it.
fn read(src: &Path) -> Result<BTreeMap<PathBuf, Source>, String> {
    let mut found = BTreeMap::new();
    for path in rust_files(src) {
        let at = path.strip_prefix(src).expect("found below it").to_owned();
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
        let syntax = syn::parse_file(&text).map_err(|error| failed(&error))?;
        found.insert(at.clone(), Source { module: module_of(&at), syntax });
    }
    Ok(found)
}

fn module_of(path: &Path) -> Module {
    let mut module: Module =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        let tokens = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        is_cfg && tokens.contains("test")
    })
}

/// The paths that a file names, outside of its tests.
#[derive(Default)]
struct Paths {
    found: BTreeSet<Vec<String>>,
    /// Modules within the file that are being looked into.
    depth: usize,
}

impl Paths {
    fn note(&mut self, mut path: Vec<String>) {
        // Out of a module within the file, to the file.
        for _ in 0..self.depth {
            if path.first().is_some_and(|first| first == "super") {
                path.remove(0);
            }
        }
        self.found.insert(path);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.note(before.to_vec()),
            syn::UseTree::Name(name) => self.note(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before.to_vec()),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(before, item))
            }
        }
    }

    /// What stands in a macro's arguments is not parsed: `crate::a::b` is found in its tokens.
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(ident) => path.push(ident.to_string()),
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => continue,
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                _ => {}
            }
            let is_over = path.first().is_some_and(|first| first != "crate" && first != "super");
            if is_over {
                path.clear();
            } else if path.len() > 1 {
                self.found.insert(path.clone());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.depth += 1;
            visit::visit_item_mod(self, item);
            self.depth -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        // `pub(crate)` names nothing.
        if names.len() > 1 || !["crate", "self", "super"].contains(&names[0].as_str()) {
            self.note(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }
}

/// Which modules each module imports.
fn imports(sources: &BTreeMap<PathBuf, Source>) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules: BTreeSet<&Module> = sources.values().map(|source| &source.module).collect();
    // What a module only hands on is imported from where it is.
    let mut handed_on: BTreeMap<(Module, String), Module> = BTreeMap::new();
    for source in sources.values() {
        for item in &source.syntax.items {
            let syn::Item::Use(item) = item else { continue };
            if matches!(item.vis, syn::Visibility::Inherited) || is_test(&item.attrs) {
                continue;
            }
            let mut paths = Paths::default();
            paths.tree(&[], &item.tree);
            for path in paths.found {
                if let Some(of) = resolve(&source.module, &path, &modules) {
                    let name = path.last().expect("not empty").clone();
                    handed_on.insert((source.module.clone(), name), of);
                }
            }
        }
    }
    let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for source in sources.values() {
        let mut paths = Paths::default();
        paths.visit_file(&source.syntax);
        // A module that is imported as a whole is named by its last word afterwards.
        let known: BTreeMap<String, Vec<String>> = (paths.found.iter())
            .filter(|path| path.first().is_some_and(|first| first == "crate" || first == "super"))
            .map(|path| (path.last().expect("not empty").clone(), path.clone()))
            .collect();
        let into = imports.entry(source.module.clone()).or_default();
        for path in &paths.found {
            let path = match known.get(&path[0]) {
                Some(before) => [&before[..], &path[1..]].concat(),
                None => path.clone(),
            };
            let Some(mut of) = resolve(&source.module, &path, &modules) else { continue };
            let name = absolute(&source.module, &path).get(of.len()).cloned().unwrap_or_default();
            if let Some(from) = handed_on.get(&(of.clone(), name)) {
                of.clone_from(from);
            }
            if of != source.module {
                into.insert(of);
            }
        }
    }
    imports
}

/// A path from the root of the crate.
fn absolute(module: &Module, path: &[String]) -> Vec<String> {
    match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        Some("self") => [module, &path[1..]].concat(),
        Some("super") => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            [&module[..module.len().saturating_sub(ups)], &path[ups..]].concat()
        }
        _ => [module, path].concat(),
    }
}

/// The module of this crate that a path leads into, if it does.
fn resolve(module: &Module, path: &[String], modules: &BTreeSet<&Module>) -> Option<Module> {
    let absolute = absolute(module, path);
    let is_plain = !["crate", "self", "super"].contains(&path.first()?.as_str());
    let longest = (0..=absolute.len()).rev().map(|length| absolute[..length].to_vec());
    let found = longest.into_iter().find(|candidate| modules.contains(candidate))?;
    // A plain path leads into this crate only by the name of a child.
    (!is_plain || found.len() > module.len()).then_some(found)
}

/// The sets of modules that import each other, directly or not.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reached = |from: &Module| {
        let mut reached: BTreeSet<&Module> = BTreeSet::new();
        let mut next: Vec<&Module> = imports.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        reached.into_iter().cloned().collect::<BTreeSet<Module>>()
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> =
        imports.keys().map(|module| (module, reached(module))).collect();
    let mut circles: BTreeSet<BTreeSet<Module>> = BTreeSet::new();
    for (module, reached) in &all {
        let back = reached
            .iter()
            .filter(|other| all.get(other).is_some_and(|reached| reached.contains(*module)));
        let circle: BTreeSet<Module> = back.cloned().collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// Functions that are too long, names and lines, and how many assertions there are.
#[derive(Default)]
struct Functions {
    long: Vec<(String, usize)>,
    /// All of them, outside of tests.
    count: usize,
    /// What checks in release, outside of tests.
    assertions: usize,
}

impl Functions {
    fn see(&mut self, docs: &[syn::Attribute], signature: &syn::Signature, block: &syn::Block) {
        self.count += 1;
        if gives_a_reason(docs) {
            return;
        }
        let from = signature.fn_token.span.start().line;
        let to = block.brace_token.span.close().end().line;
        if to - from + 1 > FUNCTION_LINES_MAX {
            self.long.push((signature.ident.to_string(), to - from + 1));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let is = |name| item.path.is_ident(name);
        self.assertions +=
            usize::from(["assert", "assert_eq", "assert_ne", "unreachable"].iter().any(is));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.see(&item.attrs, &item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.see(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

/// Whether a function's doc says why it is long: `Long: one match of all APIs.`
fn gives_a_reason(docs: &[syn::Attribute]) -> bool {
    docs.iter().filter(|attribute| attribute.path().is_ident("doc")).any(|doc| match &doc.meta {
        syn::Meta::NameValue(line) => match &line.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => {
                text.value().trim_start().starts_with("Long: ")
            }
            _ => false,
        },
        _ => false,
    })
}

fn functions_of(syntax: &syn::File) -> Functions {
    let mut functions = Functions::default();
    functions.visit_file(syntax);
    functions
}

/// A complaint if a crate checks itself less than it is to.
fn too_few_assertions(name: &str, functions: &[Functions]) -> Option<String> {
    let count: usize = functions.iter().map(|file| file.count).sum();
    let assertions: usize = functions.iter().map(|file| file.assertions).sum();
    let is_too_few = ASSERTED.contains(&name) && assertions * 2 < count;
    is_too_few.then(|| {
        format!("{name}: {assertions} assertions in {count} functions: one in two at least")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> BTreeMap<Module, BTreeSet<Module>> {
        let source = |(path, text): &(&str, &str)| {
            let path = PathBuf::from(path);
            let source =
                Source { module: module_of(&path), syntax: syn::parse_file(text).unwrap() };
            (path, source)
        };
        imports(&files.iter().map(source).collect())
    }

    fn names(circles: Vec<BTreeSet<Module>>) -> Vec<Vec<String>> {
        let name =
            |circle: BTreeSet<Module>| circle.iter().map(|module| module.join("::")).collect();
        circles.into_iter().map(name).collect()
    }

    #[test]
    fn planted_circles_are_found() {
        let root = ("lib.rs", "mod a; mod b; mod c; pub use c::Handed;");
        let none =
            of(&[root, ("a.rs", "use crate::b::B;"), ("b.rs", "use std::fs;"), ("c.rs", "")]);
        assert!(circles(&none).is_empty());
        // By an import, by a path in a body, in a macro, through what the root hands on, from a child to its parent.
        for back in [
            "use crate::{a::{self, A}};",
            "fn f() { crate::a::g() }",
            "fn f() { info!(\"{}\", crate::a::G) }",
            "fn f() -> super::a::A { todo() }",
            "use crate::a; fn f() { a::g() }",
        ] {
            let two = of(&[root, ("a.rs", "use crate::b::B;"), ("b.rs", back), ("c.rs", "")]);
            assert_eq!(names(circles(&two)), [["a", "b"]], "{back}");
        }
        let handed =
            of(&[root, ("a.rs", "use crate::Handed;"), ("b.rs", ""), ("c.rs", "use crate::a::A;")]);
        assert_eq!(names(circles(&handed)), [["a", "c"]]);
        let child =
            of(&[("lib.rs", "mod a;"), ("a.rs", "mod b; use b::B;"), ("a/b.rs", "use super::A;")]);
        assert_eq!(names(circles(&child)), [["a", "a::b"]]);
        // What tests import is no part of the house.
        let tests = "#[cfg(test)] mod tests { use crate::a::A; }";
        let tested = of(&[root, ("a.rs", "use crate::b::B;"), ("b.rs", tests), ("c.rs", "")]);
        assert!(circles(&tested).is_empty());
    }

    #[test]
    fn handlers_are_given_rooms() {
        let shard = "pub struct Shard;";
        let knows = "use crate::shard::shard::Shard;";
        let of = |path| of(&[("shard/shard.rs", shard), (path, knows)]);
        let complaints = |path| handlers_that_know_the_shard(&of(path)).count();
        assert_eq!(complaints("api/groups/heartbeat.rs"), 1);
        assert_eq!(complaints("api/data/fetch.rs") + complaints("server.rs"), 0);
    }

    #[test]
    fn long_functions_are_found_and_what_was_reached_is_kept() {
        let lines = |count: usize| format!("fn f() {{{}}}", "\n".repeat(count));
        let of = |text: &str| functions_of(&syn::parse_file(text).unwrap());
        let long = |count| of(&lines(count)).long.len();
        assert_eq!((long(69), long(70)), (0, 1));
        let reason = format!("/// Does it.\n///\n/// Long: one table.\n{}", lines(99));
        assert!(of(&reason).long.is_empty());
        let (few, enough) =
            ("fn f() {} fn g() {} fn h() { assert!(true) }", "fn f() { assert!(true) }");
        let complains = |text, name| too_few_assertions(name, &[of(text)]).is_some();
        assert!(complains(few, "engine/storage") && !complains(enough, "engine/storage"));
        assert!(!complains(few, "engine/broker"));
        let say = |found| ratchet("a", found, &[("a", 2)], "LIST", || "a: too many".to_owned());
        assert!(
            say(2).is_none()
                && say(3).is_some()
                && say(1).is_some_and(|text| text.contains("LIST"))
        );
    }
}
