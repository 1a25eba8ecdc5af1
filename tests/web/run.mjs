// run.mjs PROGRAM.wasm: runs a test under Node, in the repository's root.
import fs from "node:fs";
import {Exit, instantiate} from "../../examples/web/wasi.mjs";

function file(path) {
    if (!fs.existsSync("./" + path)) return null;
    const fd = fs.openSync("./" + path), stat = fs.fstatSync(fd);
    return {
        size: stat.isDirectory() ? -1 : stat.size,
        read(at, n) {
            const piece = new Uint8Array(n);
            return piece.subarray(0, fs.readSync(fd, piece, 0, n, at));
        },
    };
}
const module = await WebAssembly.compile(fs.readFileSync(process.argv[2]));
const {exports} = await instantiate(module, {file, write: (fd, bytes) => fs.writeSync(fd, bytes)});
try {
    exports._start();
} catch (e) {
    if (!(e instanceof Exit)) throw e;
    process.exitCode = Number(e.message);
}
