// Unpacks the Chromium of the npm package into $TMPDIR, with fonts and the shared libraries that a bare machine may lack.
// Prints the folder as its only line.
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { inflate } from '@sparticuz/chromium';

const packed = new URL('../bin/', import.meta.resolve('@sparticuz/chromium'));
const parts = ['chromium.br', 'fonts.tar.br', 'swiftshader.tar.br', 'al2023.tar.br'];
await Promise.all(parts.map((part) => inflate(fileURLToPath(new URL(part, packed)))));
console.log(tmpdir());
