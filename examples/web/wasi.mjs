// wasi.mjs - as much of WASI (preview 1) as wasi-libc asks for to read files and to write messages, in a page or Node.
// instantiate(module, {file, write}) gives the instance. file(path) -> {size, read(at, n) -> Uint8Array}, of a
// directory size -1, or null; write(fd, bytes). Files are read a piece at a time; they cannot be written.

const BADF = 8, NOENT = 44, NOSYS = 52, ROOT = 3;

export class Exit extends Error {} // its message is the status

export async function instantiate(module, {file, write}) {
    const open = new Map(); // descriptor -> {file, at}
    let memory, next = ROOT + 1;
    const view = () => new DataView(memory.buffer);
    const bytes = (at, n) => new Uint8Array(memory.buffer, at, n);
    const parts = (list, n) => Array.from({length: n}, (_, i) =>
        bytes(view().getUint32(list + 8 * i, true), view().getUint32(list + 8 * i + 4, true)));
    const decoded = (at, n) => new TextDecoder().decode(bytes(at >>> 0, n).slice());
    const named = (at, n) => file(decoded(at, n));
    const calls = {
        environ_sizes_get: (n, total) => (view().setUint32(n, 0, true), view().setUint32(total, 0, true), 0),
        clock_time_get: (id, precision, at) =>
            (view().setBigUint64(at, BigInt(Math.round((id ? performance.now() : Date.now()) * 1e6)), true), 0),
        proc_exit: code => { throw new Exit(code); },
        fd_prestat_get: (fd, at) => fd === ROOT ? (view().setBigUint64(at, 1n << 32n, true), 0) : BADF,
        fd_prestat_dir_name: (fd, at) => (bytes(at, 1)[0] = 47, 0),
        fd_fdstat_get: (fd, at) => {
            if (fd > ROOT && !open.has(fd)) return BADF;
            bytes(at, 8).fill(0), bytes(at + 8, 16).fill(255); // all rights
            view().setUint8(at, fd < ROOT ? 2 : fd === ROOT ? 3 : 4);
            return 0;
        },
        path_filestat_get: (fd, flags, path, n, at) => {
            const f = named(path, n);
            if (!f) return NOENT;
            bytes(at, 64).fill(0);
            view().setUint8(at + 16, f.size < 0 ? 3 : 4); // directory, file
            view().setBigUint64(at + 32, BigInt(Math.max(f.size, 0)), true);
            return 0;
        },
        path_open: (fd, flags, path, n, how, base, inheriting, fdflags, at) => {
            const f = named(path, n);
            if (!f) return NOENT;
            open.set(next, {file: f, at: 0}), view().setUint32(at, next++, true);
            return 0;
        },
        fd_close: fd => open.delete(fd) ? 0 : BADF,
        fd_read: (fd, list, n, at) => {
            const f = open.get(fd);
            if (!f) return BADF;
            let got = 0;
            for (const to of parts(list, n)) {
                const piece = f.file.read(f.at, Math.min(to.length, f.file.size - f.at));
                to.set(piece);
                got += piece.length, f.at += piece.length;
                if (piece.length < to.length) break;
            }
            view().setUint32(at, got, true);
            return 0;
        },
        fd_seek: (fd, offset, from, at) => {
            const f = open.get(fd);
            if (!f) return BADF;
            f.at = Math.max(0, Number(offset) + [0, f.at, f.file.size][from]);
            view().setBigUint64(at, BigInt(f.at), true);
            return 0;
        },
        fd_write: (fd, list, n, at) => {
            const all = parts(list, n);
            all.forEach(from => write(fd, from.slice()));
            return view().setUint32(at, all.reduce((sum, from) => sum + from.length, 0), true), 0;
        },
    };
    const call = (all, name) => (...given) => // addresses from 2 GiB on come as negative numbers
        all[name] ? all[name](...given.map(x => typeof x === "number" ? x >>> 0 : x)) : NOSYS;
    const wasi = new Proxy(calls, {get: call});
    const math = {__proto__: Math, number: (at, n) => n ? Number(decoded(at, n)) : NaN}; // of digits alone
    const instance = await WebAssembly.instantiate(module, {wasi_snapshot_preview1: wasi, math});
    memory = instance.exports.memory;
    return instance;
}
