(() => {
  // The slice viewer: NiiVue and the images lie packed in the report; nothing is fetched.
  const LAYOUTS = { three: 3, axial: 0, coronal: 1, sagittal: 2 };
  const TILE_AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // across, up, through: axial, coronal, sagittal
  const SWITCHES = { o: 'lesions', x: 'cross', w: 'window' };
  // The lesion map: the brain lets lesions shine through, and is lit more than a slice.
  const MAP_OPACITY = 0.45;
  const MAP_WINDOW = 0.6;
  const MOST_OPEN = 2; // browsers keep a limited number of drawing contexts

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const inflate = async (text) => {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const voxelsOf = async (packed) => {
    const voxels = await inflate(packed.data);
    if (packed.delta) for (let i = 1; i < voxels.length; i += 1) voxels[i] += voxels[i - 1];
    return voxels;
  };
  const labelsOf = async (packed) => {
    const head = new DataView(bytesOf(packed.header).buffer);
    const bytes = await voxelsOf(packed);
    return {
      dims: [42, 44, 46].map((at) => head.getInt16(at, true)),
      zooms: [80, 84, 88].map((at) => head.getFloat32(at, true)),
      data: head.getInt16(72, true) === 16 ? new Uint16Array(bytes.buffer) : bytes,
    };
  };
  // Marching squares at half between voxel centres: for each pattern of corners, from side to side
  // (sides: 0 below, 1 right, 2 above, 3 left).
  const SQUARES = [[], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
    [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], []];
  const SIDES = [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]];
  const outline = (grid, [u, v, w], index) => {
    const { dims, data } = grid;
    const stride = [1, dims[0], dims[0] * dims[1]];
    const at = (i, j) => (i < 0 || j < 0 || i >= dims[u] || j >= dims[v] ? 0
      : data[i * stride[u] + j * stride[v] + index * stride[w]]);
    const lines = new Map();
    for (let j = -1; j < dims[v]; j += 1) {
      for (let i = -1; i < dims[u]; i += 1) {
        const corners = [at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)];
        const kind = corners.reduce((sum, value, place) => sum + (value ? 1 << place : 0), 0);
        if (kind === 0 || kind === 15) continue;
        const value = Math.max(...corners);
        if (!lines.has(value)) lines.set(value, []);
        for (const [a, b] of SQUARES[kind]) {
          lines.get(value).push([i + 0.5 + SIDES[a][0], j + 0.5 + SIDES[a][1], i + 0.5 + SIDES[b][0], j + 0.5 + SIDES[b][1]]);
        }
      }
    }
    return lines;
  };
  const nifti = async (packed) => {
    const header = bytesOf(packed.header);
    const voxels = await voxelsOf(packed);
    const whole = new Uint8Array(header.length + voxels.length);
    whole.set(header);
    whole.set(voxels, header.length);
    return whole.buffer;
  };
  let library = null;
  const loadLibrary = () => {
    library ??= (async () => {
      const text = new TextDecoder().decode(await inflate(document.getElementById('niivue').textContent));
      const script = document.createElement('script');
      script.textContent = text; // allowed by its hash in the content policy
      document.head.append(script);
      return globalThis.mslessegNiivue;
    })();
    return library;
  };
  const canDraw = () => {
    if (typeof DecompressionStream === 'undefined') return false;
    const context = document.createElement('canvas').getContext('webgl2');
    context?.getExtension('WEBGL_lose_context')?.loseContext();
    return context !== null;
  };
  const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const lut = (colours) => ({
    R: colours.map((c) => c[0]), G: colours.map((c) => c[1]), B: colours.map((c) => c[2]),
    A: colours.map((_, place) => (place ? 255 : 0)), labels: colours.map((_, place) => String(place)),
  });

  const opened = [];

  class Viewer {
    constructor(box) {
      this.box = box;
      this.scene = JSON.parse(box.querySelector('.nv-scene').textContent);
      this.note = box.querySelector('.nv-note');
      this.words = box.querySelector('.nv-where');
      this.statuses = ['', ...this.scene.statuses.map(([name]) => name)];
      this.colours = [[0, 0, 0], ...this.scene.statuses.map(([, colour]) => rgb(colour))];
      this.panes = [];
      this.ids = Object.keys(this.scene.points);
      this.current = null;
      this.busy = false;
      this.timer = 0;
      this.shown = true;
      this.starting = null;
      box.querySelector('.nv-start').addEventListener('click', () => this.start());
      for (const control of box.querySelectorAll('[data-do]')) {
        control.addEventListener(control.matches('button') ? 'click' : 'change', () => this.act(control));
      }
    }

    start() {
      this.starting ??= this.begin().catch((error) => {
        this.note.textContent = `The slice viewer could not start (${error.message}). The images below show the same slices.`;
        this.note.hidden = false;
        this.box.classList.remove('is-open');
        this.box.dataset.state = 'failed';
      });
      return this.starting;
    }

    async begin() {
      this.note.textContent = 'The slice viewer is starting …';
      this.note.hidden = false;
      const Niivue = await loadLibrary();
      while (opened.length >= MOST_OPEN) opened.shift().stop();
      opened.push(this);
      this.box.classList.add('is-open');
      const { overlays } = this.scene;
      this.lesions = await labelsOf(overlays.lesions);
      this.change = overlays.change ? await labelsOf(overlays.change) : null;
      this.outline = overlays.outline ? await labelsOf(overlays.outline) : null;
      this.outlineBefore = overlays.outline_before ? await labelsOf(overlays.outline_before) : null;
      for (const holder of this.box.querySelectorAll('.nv-pane')) {
        const make = holder.dataset.image === 'map' ? this.makeMap : this.makePane;
        this.panes.push(await make.call(this, Niivue, holder));
      }
      this.main = this.panes[0];
      this.note.hidden = true;
      this.box.dataset.state = 'open';
      if (this.ids.length) this.goTo(this.ids[0]);
    }

    stop() {
      clearInterval(this.timer);
      for (const pane of this.panes) {
        pane.nv.gl?.getExtension('WEBGL_lose_context')?.loseContext();
        pane.nv.cleanup?.();
        for (const canvas of pane.holder.querySelectorAll('canvas')) canvas.remove();
      }
      this.panes = [];
      this.starting = null;
      this.box.classList.remove('is-open');
      this.box.dataset.state = 'closed';
      this.note.textContent = 'Closed to save memory because another viewer was opened.';
      this.note.hidden = false;
    }

    async attach(Niivue, holder, options) {
      const canvas = document.createElement('canvas');
      canvas.tabIndex = 0;
      canvas.setAttribute('role', 'application');
      canvas.setAttribute('aria-label', holder.dataset.words);
      canvas.setAttribute('aria-describedby', this.words.id);
      holder.append(canvas);
      const nv = new Niivue({
        isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false,
        logLevel: 'silent', loadingText: '', backColor: [0, 0, 0, 1], fontColor: [1, 1, 1, 1], isOrientationTextVisible: false,
        crosshairColor: [0.3, 0.95, 1, 0.9], crosshairWidth: 0.6, crosshairWidthUnit: 'mm', crosshairGap: 12,
        isForceMouseClickToVoxelCenters: true, ...options,
      });
      await nv.attachToCanvas(canvas, false);
      const pane = { nv, holder, canvas, layers: {}, letters: {} };
      pane.add = async (name, packed, how) => {
        await nv.addVolumeFromUrl({ url: `${name}.nii`, name: `${name}.nii`, buffer: await nifti(packed), ...how });
        pane.layers[name] = nv.volumes[nv.volumes.length - 1];
      };
      return pane;
    }

    async makePane(Niivue, holder) {
      const wide = holder.dataset.image === 'FLAIR';
      const pane = await this.attach(Niivue, holder, {
        multiplanarShowRender: 0, sliceType: 0, multiplanarLayout: 2,
      });
      const { nv, canvas, add } = pane;
      const { images, overlays } = this.scene;
      const own = images[holder.dataset.image];
      await add(holder.dataset.image, own, { colormap: 'gray', cal_min: own.low, cal_max: own.high });
      pane.window = [own.low, own.high];
      if (wide) {
        if (images.template) await add('template', images.template, { colormap: 'gray', opacity: 0, cal_min: images.template.low, cal_max: images.template.high });
        for (const [name, colormap] of [['probability', 'warm'], ['uncertainty', 'winter']]) {
          const map = overlays[name];
          if (map) await add(name, map, { colormap, opacity: 0, cal_min: 0.05 * map.high, cal_max: map.high });
        }
      }
      // Each session shows the lesions of its own mask; all images of a session the same.
      pane.labels = holder.dataset.image === 'before' ? this.outlineBefore ?? this.change
        : this.outline ?? this.lesions;
      pane.coded = pane.labels !== this.lesions;
      pane.lines = document.createElement('canvas');
      pane.lines.className = 'nv-lines';
      pane.lines.setAttribute('aria-hidden', 'true');
      holder.append(pane.lines);
      const draw = nv.drawScene.bind(nv);
      nv.drawScene = () => { const made = draw(); this.contours(pane); return made; };
      nv.onLocationChange = (place) => this.moved(pane, place);
      canvas.addEventListener('keydown', (event) => this.key(pane, event), true);
      nv.drawScene();
      return pane;
    }

    // The brain is transparent, so that lesions deep in it are seen.
    async makeMap(Niivue, holder) {
      const pane = await this.attach(Niivue, holder, { sliceType: 4, crosshairWidth: 0 });
      const { images, overlays } = this.scene;
      pane.window = [images.FLAIR.low, images.FLAIR.low + MAP_WINDOW * (images.FLAIR.high - images.FLAIR.low)];
      await pane.add('FLAIR', images.FLAIR, { colormap: 'gray', cal_min: pane.window[0], cal_max: pane.window[1], opacity: MAP_OPACITY });
      const shown = overlays.change ?? overlays.lesions;
      await pane.add('spots', shown, { opacity: 1 });
      pane.layers.spots.setColormapLabel(lut(this.change ? this.colours
        : Array.from({ length: shown.high + 1 }, (_, i) => this.colours[i ? 1 : 0])));
      pane.nv.updateGLVolume();
      return pane;
    }

    // Outlines over the slices of a pane, at the voxels of the lesion map.
    contours(pane) {
      const { nv, canvas, lines, labels } = pane;
      if (lines.width !== canvas.width) lines.width = canvas.width;
      if (lines.height !== canvas.height) lines.height = canvas.height;
      const context = lines.getContext('2d');
      context.clearRect(0, 0, lines.width, lines.height);
      if (!nv.volumes.length) return;
      for (const tile of nv.screenSlices) if (tile.axCorSag < 3) this.sides(context, pane, tile);
      if (!this.shown) return;
      context.lineWidth = Math.max(1.25, canvas.width / canvas.clientWidth * 1.25);
      for (const tile of nv.screenSlices) if (tile.axCorSag < 3) this.contoursIn(context, pane, tile);
    }

    // Where a share of the volume along the axes of a tile is drawn.
    frame(pane, tile) {
      const { nv } = pane;
      const axes = TILE_AXES[tile.axCorSag];
      let [left, top, width, height] = tile.leftTopWidthHeight;
      const mirrored = width < 0;
      if (mirrored) { left += width; width = -width; }
      const low = nv.frac2mm([0, 0, 0]);
      const high = nv.frac2mm([1, 1, 1]);
      const part = (way, at) => {
        const axis = axes[way];
        return (low[axis] + (high[axis] - low[axis]) * at - tile.leftTopMM[way]) / tile.fovMM[way];
      };
      return {
        left, top, width, height,
        x: (at) => left + (mirrored ? 1 - part(0, at) : part(0, at)) * width,
        y: (at) => top + (1 - part(1, at)) * height,
      };
    }

    // Letters of the sides, by where the low end of the axis is drawn.
    sides(context, pane, tile) {
      const { left, top, width, height, x } = this.frame(pane, tile);
      const ends = [['L', 'R'], ['L', 'R'], ['P', 'A']][tile.axCorSag];
      const letters = x(0) < x(1) ? ends : [ends[1], ends[0]];
      const size = 13 * (globalThis.devicePixelRatio || 1);
      context.font = `600 ${size}px system-ui, sans-serif`;
      context.textBaseline = 'middle';
      context.fillStyle = '#fff';
      context.textAlign = 'left';
      context.fillText(letters[0], left + 0.4 * size, top + height / 2);
      context.textAlign = 'right';
      context.fillText(letters[1], left + width - 0.4 * size, top + height / 2);
      pane.letters[tile.axCorSag] = letters;
    }

    contoursIn(context, pane, tile) {
      const { nv, labels } = pane;
      const axes = TILE_AXES[tile.axCorSag];
      const own = nv.volumes[0];
      // The grids share their first corner and directions; voxels may differ in size.
      const scale = axes.map((axis) => own.dimsRAS[axis + 1] * own.pixDimsRAS[axis + 1] / labels.zooms[axis]);
      const index = Math.floor(nv.scene.crosshairPos[axes[2]] * scale[2]);
      if (index < 0 || index >= labels.dims[axes[2]]) return;
      const key = `${tile.axCorSag}/${index}`;
      labels.cache ??= new Map();
      if (!labels.cache.has(key)) labels.cache.set(key, outline(labels, axes, index));
      const { left, top, width, height, x: across, y: up } = this.frame(pane, tile);
      const x = (i) => across(i / scale[0]);
      const y = (j) => up(j / scale[1]);
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      for (const [value, segments] of labels.cache.get(key)) {
        const colour = this.colours[pane.coded ? value : 1] ?? this.colours[1];
        context.strokeStyle = `rgb(${colour.join(' ')})`;
        context.beginPath();
        for (const [a, b, c, d] of segments) {
          context.moveTo(x(a), y(b));
          context.lineTo(x(c), y(d));
        }
        context.stroke();
      }
      context.restore();
    }

    // One pane moved: the others follow, and the words say where that is.
    moved(pane, place) {
      if (this.busy) return;
      this.busy = true;
      const mm = [...place.mm].slice(0, 3);
      for (const other of this.panes) if (other !== pane) this.put(other, mm);
      this.busy = false;
      this.tell(mm);
    }

    put(pane, mm) {
      pane.nv.scene.crosshairPos = pane.nv.mm2frac(mm, 0, true);
      pane.nv.drawScene();
    }

    // The label under a point; grids share their first corner.
    labelAt(grid, mm) {
      const frac = this.main.nv.mm2frac(mm, 0, true);
      const own = this.main.nv.volumes[0];
      const at = grid.dims.map((_, axis) => Math.floor(frac[axis] * own.dimsRAS[axis + 1] * own.pixDimsRAS[axis + 1] / grid.zooms[axis]));
      if (at.some((value, axis) => value < 0 || value >= grid.dims[axis])) return 0;
      return grid.data[at[0] + grid.dims[0] * (at[1] + grid.dims[1] * at[2])];
    }

    tell(mm) {
      const where = mm.map((value, axis) => `${'xyz'[axis]} = ${value.toFixed(1)}`).join(', ').replaceAll('-', '−');
      const id = this.labelAt(this.lesions, mm);
      const parts = [id ? `Lesion ${id}${this.rowWords(id)}` : 'No lesion here', `${where} mm`];
      if (id) this.current = String(id);
      const status = this.change ? this.statuses[this.labelAt(this.change, mm)] : '';
      if (status) parts.push(status);
      for (const name of ['probability', 'uncertainty']) {
        const layer = this.main.layers[name];
        if (layer) parts.push(`${name} ${layer.getValue(...layer.mm2vox(mm)).toFixed(2)}`);
      }
      this.words.textContent = parts.join(' · ');
      for (const row of document.querySelectorAll(`tr[data-viewer="${this.box.id}"]`)) {
        row.classList.toggle('here', row.dataset.lesion === String(id));
      }
    }

    rowWords(id) {
      const row = document.querySelector(`tr[data-viewer="${this.box.id}"][data-lesion="${CSS.escape(String(id))}"]`);
      return row?.dataset.words ? `: ${row.dataset.words}` : '';
    }

    goTo(id) {
      const mm = this.scene.points[id];
      if (!mm || !this.panes.length) return false;
      this.current = id;
      this.busy = true;
      for (const pane of this.panes) this.put(pane, mm);
      this.busy = false;
      this.tell(mm);
      return true;
    }

    step(by) {
      if (!this.ids.length) return;
      const at = this.ids.indexOf(this.current);
      this.goTo(this.ids[(at + by + this.ids.length) % this.ids.length]);
    }

    key(pane, event) {
      const moves = {
        ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
        PageUp: [0, 0, 1], PageDown: [0, 0, -1],
      };
      if (event.key in moves) pane.nv.moveCrosshairInVox(...moves[event.key]);
      else if (event.key === 'n') this.step(1);
      else if (event.key === 'p') this.step(-1);
      else if (event.key in SWITCHES) this.box.querySelector(`[data-do=${SWITCHES[event.key]}]`).click();
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
    }

    opacity(name, value) {
      if (name === 'template') {
        this.main.holder.querySelector('.nv-title').textContent = value ? 'Template' : 'FLAIR';
      }
      for (const pane of this.panes) {
        if (!pane.layers[name]) continue;
        pane.layers[name].opacity = value;
        pane.nv.updateGLVolume();
      }
    }

    act(control) {
      const what = control.dataset.do;
      if (what === 'step') this.step(Number(control.value));
      else if (what === 'layout') this.layout(control.value);
      else if (what === 'flicker') this.flicker(control);
      else if (what === 'lesions') {
        this.shown = control.checked;
        for (const pane of this.panes) pane.nv.drawScene();
        this.opacity('spots', control.checked ? 1 : 0);
      } else if (what === 'cross') {
        for (const pane of this.panes) {
          if (pane.holder.dataset.image !== 'map') pane.nv.setCrosshairWidth(control.checked ? 0.6 : 0);
        }
      } else if (what === 'window') {
        for (const pane of this.panes) {
          [pane.nv.volumes[0].cal_min, pane.nv.volumes[0].cal_max] = pane.window;
          pane.nv.updateGLVolume();
        }
      } else this.opacity(what, control.checked ? Number(control.dataset.opacity || 1) : 0);
    }

    layout(name) {
      this.box.querySelector('.nv-views').dataset.layout = name;
      for (const pane of this.panes) {
        if (pane.holder.dataset.image === 'map') continue;
        const alike = name in LAYOUTS && (name !== 'three' || pane === this.main);
        pane.nv.setSliceType(LAYOUTS[alike ? name : 'axial']);
      }
    }

    flicker(button) {
      const on = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', String(on));
      clearInterval(this.timer);
      const box = this.box.querySelector('[data-do=template]');
      const show = (value) => { box.checked = value; this.opacity('template', value ? 1 : 0); };
      if (on) this.timer = setInterval(() => show(!box.checked), 700);
      else show(false);
    }
  }

  const viewers = new Map();
  const able = document.querySelector('.nv') !== null && canDraw();
  for (const box of document.querySelectorAll('.nv')) {
    if (!able) {
      box.dataset.state = 'unable';
      box.querySelector('.nv-note').textContent = 'This browser cannot draw the slice viewer (it needs WebGL 2). The images below show the same slices.';
      continue;
    }
    const viewer = new Viewer(box);
    viewers.set(box.id, viewer);
    box.dataset.state = 'ready';
    box.querySelector('.nv-note').hidden = true;
    box.querySelector('.nv-start').hidden = false;
  }

  // The first exam's viewer starts when it comes into view; others by their button.
  const first = viewers.values().next().value;
  if (first && typeof IntersectionObserver !== 'undefined') {
    const watch = new IntersectionObserver((seen) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      first.start();
    });
    watch.observe(first.box);
  }

  // A lesion chosen in the table is shown in the viewer; without one, in the images.
  const choose = async (row) => {
    const viewer = viewers.get(row.dataset.viewer);
    if (!viewer) return;
    await viewer.start();
    if (!viewer.goTo(row.dataset.lesion)) return;
    viewer.box.scrollIntoView({ block: 'nearest' });
  };
  for (const row of document.querySelectorAll('tr[data-viewer]')) {
    row.addEventListener('click', (event) => {
      if (!viewers.has(row.dataset.viewer) || getSelection().toString()) return;
      event.preventDefault();
      choose(row);
    });
  }
  globalThis.mslessegViewers = viewers;
})();
