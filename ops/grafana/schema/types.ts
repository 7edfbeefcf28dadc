// What the JSON of our dashboards must be, made from Grafana's own types: the dashboard's, and for each
// kind of panel its options and field settings. boards.ts, which `ops/dev dashboards` writes, assigns
// each JSON to `Board`, so that an unknown key, a wrong kind of value or a missing one fails.

import type {
  Dashboard, DataSourceRef, FieldConfig, FieldConfigSource, GraphFieldConfig, Panel, TableFieldOptions,
} from '@grafana/schema';
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as statetimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// In JSON an enum is its value.
type Json<T> = 0 extends 1 & T
  ? unknown
  : T extends string
    ? `${T}`
    : T extends number
      ? number extends T
        ? number
        : `${T}` extends `${infer N extends number}`
          ? N
          : never
      : T extends boolean | null | undefined
        ? T
        : T extends readonly (infer U)[]
          ? Json<U>[]
          : T extends object
            ? { [K in keyof T]: Json<T[K]> }
            : T;

// Our queries all go to Prometheus, whose query type is not in the package.
interface PrometheusTarget {
  datasource: Json<DataSourceRef>;
  editorMode: 'code';
  expr: string;
  format?: 'table' | 'time_series' | 'heatmap';
  instant?: boolean;
  legendFormat?: string;
  range?: boolean;
  refId: string;
}

type Common = Omit<Json<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'title' | 'description' | 'id'>;

type Fields<Custom> = Omit<Json<FieldConfigSource>, 'defaults'> & {
  defaults: Omit<Json<FieldConfig>, 'custom' | 'unit'> & { unit: string; custom?: Json<Custom> };
};

// Every panel has an id, a title, a description, a unit and queries.
type PanelOf<Type extends string, Options, Custom> = Common & {
  type: Type;
  id: number;
  title: string;
  description: string;
  options: Json<Options>;
  fieldConfig: Fields<Custom>;
  targets: [PrometheusTarget, ...PrometheusTarget[]];
};

export type Wall =
  | PanelOf<'stat', stat.Options, Record<string, never>>
  | PanelOf<'bargauge', bargauge.Options, Record<string, never>>
  | PanelOf<'timeseries', timeseries.Options, GraphFieldConfig>
  | PanelOf<'state-timeline', statetimeline.Options, statetimeline.FieldConfig>
  | PanelOf<'table', table.Options, Partial<TableFieldOptions>>;

export type Board = Omit<Json<Dashboard>, 'panels' | 'uid'> & { uid: string; panels: Wall[] };
